"""The form of a case."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.schedulers.reference import Reference


@dataclass(frozen=True)
class Case:
    # --- law 3: equality with diffusers ---
    steps: Sequence[int] = (1, 2, 3, 5, 10, 20, 50)  # numbers of steps that the class takes
    inexact: Sequence[int] = ()  # those of them at which the reference's own float32 loses too many digits
    lossy: Callable[[Mapping[str, Any], int], bool] = lambda config, n: False  # the same, of (config, steps)
    # What the random sweep tries for keys of the config, before VALUES of test_golden and the annotations.
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    # Options of a run that the sweep tries: given to our .table, and to the reference's set_timesteps or step,
    # whichever names them. A function of (number of steps, config) makes options that depend on those.
    options: Sequence[Mapping[str, Any] | Callable[[int, Mapping[str, Any]], Mapping[str, Any]]] = ({},)
    # What sets the reference up for a run of (number of steps, options), where that is not set_timesteps alone.
    prepare: Callable[[Any, int | None, Mapping[str, Any]], None] | None = None
    # The reference's loop, where it is not "scale_model_input, model, step" over its timesteps: see Reference.
    drive: "Callable[[Reference], None] | None" = None
    # What makes the toy network's bounded output m at (x, t) one of the class's kind, where it must not be bounded.
    network: Callable[[Any, Any, float], Any] | None = None
    wide: Sequence[str] = ()  # prediction types at which the reference's own float32 loses too many digits
    outputs: int = 1  # arrays of the sample's channels that the model puts out
    refused: Sequence[str] = ()  # parts of messages with which we refuse on purpose what the reference runs
    # Where the reference fails or gives NaN and we do not, for a listed fault: (config, steps, options) -> bool.
    broken: Callable[[Mapping[str, Any], int, Mapping[str, Any]], bool] = lambda config, n, options: False
    # --- laws 1 and 2 ---
    config: Mapping[str, Any] = field(default_factory=dict)  # added to the laws' config for every variant
    variants: Sequence[tuple[Mapping[str, Any], int]] = (({}, 1),)  # config and order of accuracy
    law_options: Mapping[str, Any] = field(default_factory=dict)  # options of the laws' runs
    law_steps: Sequence[int] = (50, 125, 250)  # numbers of steps between which the order is measured
    # Variants with fresh noise that miss the data's distribution by far: a listed fault that pictures are made with.
    wrong: Callable[[Mapping[str, Any]], bool] = lambda options: False
    # The key that says how many steps make up one application of the method, which begins on its "base".
    group: str | None = None
    # The order of a corrector, which acts on the slot "ahead" of the step before.
    corrector: Callable[[Mapping[str, Any]], int] | None = None
    # "transport", "order", "noisy order" (with fresh noise alone), "previews" or "add_noise": why that does not hold.
    exempt: Mapping[str, str] = field(default_factory=dict)
    # What a network puts out, of (prediction type, x0, eps, alpha, sigma), where that is none of the usual four.
    says: Callable[[str, Any, Any, float, float], Any] | None = None
    transported: Sequence[str] | None = None  # prediction types that law 1 holds for; None: all
    law_skip: int = 0  # steps after which law 1 begins to hold

    def count(self, n: int) -> int:
        """n, or the number of steps of a class that takes few."""
        return n if len(self.steps) > 3 else self.steps[-1]
