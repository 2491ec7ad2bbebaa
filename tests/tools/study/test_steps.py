"""A study that is continued does not train its runs on."""

from pathlib import Path

import pytest
import yaml

from packformer.tools.study.steps import refuse_other_steps


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Of runs that were to take 60 steps, in one folder or in those of their variants."""
    for place in ("0_mha_seed-0", "gqa/learning_rate_0.001/0_gqa_seed-0"):
        (tmp_path / place).mkdir(parents=True)
        config = {"seed": 0, "trainer": {"max_steps": 60}}
        (tmp_path / place / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_other_steps_are_refused_and_the_same_are_not(study: Path) -> None:
    refuse_other_steps(study, [["+experiment=mha", "trainer.max_steps=60"]])
    for steps in (59, 90):
        command = [f"trainer.max_steps={steps}"]
        with pytest.raises(
            ValueError, match=rf"is {steps}, .* was to take 60: .* another --output"
        ):
            refuse_other_steps(
                study, [["+experiment=mha", *command], ["+experiment=gqa", *command]]
            )


def test_variants_may_have_their_own_steps(study: Path) -> None:
    commands = [["+experiment=mha", "trainer.max_steps=60"], ["trainer.max_steps=120"]]
    refuse_other_steps(study, commands)


def test_a_new_folder_has_nothing_to_refuse(tmp_path: Path) -> None:
    refuse_other_steps(tmp_path, [["trainer.max_steps=60"]])
    refuse_other_steps(tmp_path / "new", [["trainer.max_steps=60"]])
