from pathlib import Path

import ray

from evclip_ray.training.run_registry import register_run, run_of

TRIAL = Path("studies/mine/trials/trial-0003")


def test_actor_registers_and_clears_its_trial(local_ray):
    @ray.remote(num_cpus=0)
    class Trainer:
        def train(self, folder):
            register_run(folder)
            return ray.get_runtime_context().get_actor_id()

    trainer = Trainer.remote()
    actor = ray.get(trainer.train.remote(TRIAL))
    assert run_of(actor) == "mine trial-0003"
    ray.get(trainer.train.remote(Path("runs/alone")))
    assert run_of(actor) == "alone"
    ray.get(trainer.train.remote(None))
    assert run_of(actor) == ""
    ray.kill(trainer)


def test_registration_outside_an_actor_does_nothing(local_ray):
    register_run(TRIAL)
    assert run_of("no actor") == ""
