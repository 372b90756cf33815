from pathlib import Path

import ray

from evclip_ray.training.at_work import runs_of, tell_runs

TRIALS = [Path("studies/mine/trials/trial-0003"), Path("studies/mine/trials/trial-0004")]


def test_an_actor_says_which_trials_it_trains_and_when_no_more(local_ray):
    @ray.remote(num_cpus=0)
    class Trainer:
        def train(self, folders):
            tell_runs(folders)
            return ray.get_runtime_context().get_actor_id()

    trainer = Trainer.remote()
    actor = ray.get(trainer.train.remote(TRIALS))
    assert runs_of(actor) == "mine trial-0003, mine trial-0004"
    ray.get(trainer.train.remote([Path("runs/alone")]))
    assert runs_of(actor) == "alone"
    ray.get(trainer.train.remote([]))
    assert runs_of(actor) == ""
    ray.kill(trainer)


def test_outside_of_an_actor_nothing_is_said(local_ray):
    tell_runs(TRIALS)
    assert runs_of("no actor") == ""
