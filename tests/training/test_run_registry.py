from pathlib import Path

import ray

from evclip_ray.training.run_registry import run_of, tell_run

TRIAL = Path("studies/mine/trials/trial-0003")


def test_an_actor_says_which_trial_it_trains_and_when_no_more(local_ray):
    @ray.remote(num_cpus=0)
    class Trainer:
        def train(self, folder):
            tell_run(folder)
            return ray.get_runtime_context().get_actor_id()

    trainer = Trainer.remote()
    actor = ray.get(trainer.train.remote(TRIAL))
    assert run_of(actor) == "mine trial-0003"
    ray.get(trainer.train.remote(Path("runs/alone")))
    assert run_of(actor) == "alone"
    ray.get(trainer.train.remote(None))
    assert run_of(actor) == ""
    ray.kill(trainer)


def test_outside_of_an_actor_nothing_is_said(local_ray):
    tell_run(TRIAL)
    assert run_of("no actor") == ""
