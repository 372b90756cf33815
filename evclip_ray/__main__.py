"""The command line as `python -m evclip_ray`."""

from evclip_ray.cli import main

if __name__ == "__main__":
    main(prog_name="evclip-ray")
