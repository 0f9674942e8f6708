"""The command line: thin over the library. Heavy imports stand inside the commands, so that --help is instant."""

import os
import re
import sys
import warnings
from typing import Any

import click

from diffrt import __version__
from diffrt.errors import DiffrtError, InvalidArgument


def main() -> None:
    """The entry point. Errors are one line on stderr and exit code 2; Ctrl-C is 130."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        return cli.main(arguments, prog_name="diffrt", standalone_mode=False) or 0
    except (KeyboardInterrupt, click.Abort):
        return _fail("stopped", 130)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "diffrt"
        return _fail(f"{error.format_message()} (see {command} --help)")
    except (DiffrtError, click.ClickException, MemoryError, OSError) as error:
        return _fail(_message(error))


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "out of memory: try a smaller height and width"
    return error.format_message() if isinstance(error, click.ClickException) else str(error)


def _fail(message: str, code: int = 2) -> int:
    click.echo(f"diffrt: {' '.join(message.split())}", err=True)
    return code


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="diffrt %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Draw pictures with diffusion models, without PyTorch.

    \b
    Draw with the model that comes along:
      diffrt generate "a red apple" -o apple.png
    Bring your own Stable Diffusion, once (needs pip install 'diffrt[export]'):
      diffrt export path/to/checkpoint my-bundle
      diffrt generate "a red apple" --model my-bundle
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # as ours: only on a terminal
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(short_help="Draw pictures from a prompt.")
@click.argument("prompt", required=False)
@click.option("--model", default="emoji", show_default=True, metavar="NAME|PATH|ID", help="A bundle; ID: on the hub.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of an ID.")
@click.option("-o", "--output", default="out.png", show_default=True, metavar="FILE", help="PNG, JPEG or WebP.")
@click.option("--image", metavar="FILE", help="A picture to start from; its size is the result's.")
@click.option("--strength", type=float, help="With --image: how much to change it, 0 to 1.")
@click.option("--mask", metavar="FILE", help="With --image: paint only where this picture is white.")
@click.option("--depth", metavar="FILE", help="With --image, of models that are told of depth: near is white.")
@click.option("--noise-level", type=int, help="Of models that upscale --image: with how much noise it is seen (20).")
@click.option("-n", "--count", default=1, show_default=True, help="How many: a.png becomes a-0.png, a-1.png ...")
@click.option("--seed", type=int, help="Picture i is drawn from seed + i; without one, at random.")
@click.option(
    "--rng",
    default="torch-cpu",
    show_default=True,
    metavar="NAME",
    help="Noise of torch-cpu or philox, torch's on CUDA.",
)
@click.option("--steps", type=int, help="Denoising steps: more is slower and finer.")
@click.option("--guidance", type=float, help="How closely to follow the prompt; 1 is unguided, and twice as fast.")
@click.option("--image-guidance", type=float, help="Of models that edit: how closely to keep to the image (1.5).")
@click.option("--guidance-rescale", type=float, default=0.0, metavar="FLOAT", help="Against over-exposure: 0 to 1.")
@click.option(
    "--guidance-interval",
    type=float,
    nargs=2,
    default=(0.0, 1.0),
    metavar="FROM TO",
    help="Guide from one share of the steps to another.",
)
@click.option("--cfg-plus-plus", is_flag=True, help="Guide by CFG++; --guidance is then 0 to 1.")
@click.option("--negative", metavar="TEXT", help="What to keep out of the picture.")
@click.option("--prompt-2", metavar="TEXT", help="What the second text encoder reads, in place of PROMPT.")
@click.option("--prompt-3", metavar="TEXT", help="What the third reads.")
@click.option("--negative-2", metavar="TEXT", help="What the second reads in place of --negative.")
@click.option("--negative-3", metavar="TEXT", help="What the third reads.")
@click.option("--class", "label", metavar="NAME|N", help="What to draw, of models of classes, which take no PROMPT.")
@click.option("--weighting", metavar="NAME", help="Read (word:1.3), [word] and AND: scale, mean or empty.")
@click.option("--chunks", default="1", metavar="N|auto", help="How many times the usual length a prompt may have.")
@click.option("--height", type=int, help="In pixels, a multiple of 8.")
@click.option("--width", type=int, help="In pixels, a multiple of 8.")
@click.option("--exact-size", is_flag=True, help="Draw at that size, and not at the model's nearest (PixArt).")
@click.option("--scheduler", metavar="NAME", help="The sampler: see diffrt schedulers.")
@click.option("--provider", default="cpu", show_default=True, metavar="NAME", help="See diffrt providers.")
@click.option("--memory", default="keep", show_default=True, metavar="keep|low", help="low: least memory, slower.")
@click.option(
    "--load", default="full", show_default=True, metavar="full|fast", help="fast: ready sooner, slower steps."
)
@click.option("--no-safety-checker", is_flag=True, help="Leave out the one that the model has.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def generate(
    prompt: str | None,
    model: str,
    revision: str | None,
    output: str,
    image: str | None,
    strength: float | None,
    mask: str | None,
    depth: str | None,
    noise_level: int | None,
    count: int,
    seed: int | None,
    rng: str,
    steps: int | None,
    guidance: float | None,
    image_guidance: float | None,
    guidance_rescale: float,
    guidance_interval: tuple[float, float],
    cfg_plus_plus: bool,
    negative: str | None,
    prompt_2: str | None,
    prompt_3: str | None,
    negative_2: str | None,
    negative_3: str | None,
    label: str | None,
    weighting: str | None,
    chunks: str,
    height: int | None,
    width: int | None,
    exact_size: bool,
    scheduler: str | None,
    provider: str,
    memory: str,
    load: str,
    no_safety_checker: bool,
    quiet: bool,
) -> None:
    """Draw pictures of PROMPT and write them, with all their parameters inside. Some models take none.

    Options left out take the model's own defaults. Prints the files and their seeds.

    \b
    diffrt generate "a red apple" -o apple.png
    diffrt generate "a red apple" -n 4 --seed 7 --steps 20 -o apple.png
    diffrt generate "a castle" --model my-bundle --scheduler euler --negative blurry
    diffrt generate "a green apple" --image apple.png --strength 0.9 -o green.png
    diffrt generate "a hat" --image cat.png --mask where.png -o cat-with-hat.png
    diffrt generate "make it night" --image castle.png --model my-instruct-pix2pix -o night.png
    diffrt generate --class "white shark" --model my-dit -o shark.png
    diffrt generate "a castle" --model organization/bundle-on-the-hub
    """
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from tqdm import tqdm

    from diffrt import pipeline, schedulers
    from diffrt.image import checked_output, numbered, save
    from diffrt.noise import resolve_seeds

    warnings.showwarning = lambda message, *_: click.echo(f"diffrt: {message}", err=True)
    if count < 1:
        raise InvalidArgument(f"-n is {count}: give a whole number of at least 1")
    files = numbered(checked_output(output), count)
    seeds = resolve_seeds(seed, count)
    pipe = pipeline.load(
        model, revision=revision, provider=provider, memory=memory, load=load, safety_checker=not no_safety_checker
    )
    if prompt is None and pipe.bundle.manifest.tokenizers:
        raise click.UsageError("Missing argument 'PROMPT'.", click.get_current_context())
    if scheduler is not None:
        pipe.scheduler = schedulers.from_config(pipe.scheduler.config, scheduler)
    with tqdm(unit="step", leave=False, disable=True if quiet else None) as bar:  # None: only on a terminal
        for file, each in zip(files, seeds, strict=True):  # one at a time: memory is that of one, and none is lost
            stream = pipe.stream(
                prompt,
                image=image,
                mask_image=mask,
                depth_map=depth,
                noise_level=noise_level,
                strength=strength,
                negative_prompt=negative,
                prompt_2=prompt_2,
                prompt_3=prompt_3,
                negative_prompt_2=negative_2,
                negative_prompt_3=negative_3,
                class_labels=int(label) if label is not None and label.isdecimal() else label,
                weighting=weighting,
                chunks=int(chunks) if chunks.isdecimal() else chunks,
                height=height,
                width=width,
                use_resolution_binning=False if exact_size else None,
                num_inference_steps=steps,
                guidance_scale=guidance,
                image_guidance_scale=image_guidance,
                guidance_rescale=guidance_rescale,
                guidance_interval=guidance_interval,
                cfg_plus_plus=cfg_plus_plus,
                seed=each,
                rng=rng,
            )
            for step in stream:
                bar.total = step.total * count
                bar.update()
            out = stream.result()
            save(out.images[0], file, out.parameters[0])
            bar.write(f"{file}  seed {out.seeds[0]}", file=sys.stdout)


@cli.command(short_help="Turn a checkpoint into a bundle, once.")
@click.argument("source")
@click.argument("dest")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a SOURCE on the hub.")
@click.option(
    "--form",
    type=click.Choice(["components", "step", "single", "stablehlo"]),
    default="components",
    show_default=True,
    help="components: a bundle; step: with step graphs, for GPUs; single: one graph; stablehlo: programs for JAX. "
    "The last two: of --size's size.",
)
@click.option(
    "--layout",
    default="diffrt",
    show_default=True,
    metavar="diffrt|optimum",
    help="optimum: a folder for its pipelines, in fp32, not compared with PyTorch.",
)
@click.option("--precision", default="fp32", show_default=True, metavar="fp32|fp16|int8", help="See below.")
@click.option("--attention", default="auto", show_default=True, metavar="auto|portable|ort|sliced", help="Its form.")
@click.option(
    "--static", "--size", "static", metavar="HxW", help="Add graphs for pictures of exactly this size, such as 512x512."
)
@click.option("--task", metavar="text-to-image|image-to-image|inpaint", help="Of a single graph: what it begins with.")
@click.option("--steps", metavar="N,N", help="Of a single graph: step counts to choose from; 1, 4, 8, 20 and its own.")
@click.option("--scheduler", metavar="NAME", help="Of a single graph: its sampler.")
@click.option("--loop", metavar="scan|unrolled:N", help="Of a single graph: unrolled:4 has no loop and takes 4 steps.")
@click.option("--tokenizer", metavar="ids|op", help="Of a single graph: takes ids, or text, by onnxruntime-extensions.")
@click.option("--inputs", metavar="plain|segments|all", help="Of a single graph: what must be given.")
@click.option("--prediction-type", metavar="epsilon|v_prediction", help="Of a single file, where the guess is wrong.")
@click.option("--no-verify", is_flag=True, help="Skip the comparison with PyTorch: no certificate.")
@click.option("--copy-weights", is_flag=True, help="Copy weights instead of hard-linking the checkpoint's files.")
@click.option("--force", is_flag=True, help="Replace DEST where it is a bundle.")
def export(
    source: str,
    dest: str,
    revision: str | None,
    form: str,
    layout: str,
    precision: str,
    attention: str,
    static: str | None,
    task: str | None,
    steps: str | None,
    scheduler: str | None,
    loop: str | None,
    tokenizer: str | None,
    inputs: str | None,
    prediction_type: str | None,
    no_verify: bool,
    copy_weights: bool,
    force: bool,
) -> None:
    """Export the checkpoint SOURCE (a folder in diffusers layout, a single file, an id on the hub) to the bundle DEST.

    The graphs point into the checkpoint's own weights: a bundle on the same disk takes megabytes. Every graph is
    compared with PyTorch, and the figures are kept in the bundle. With --precision fp16, half the disk, weights that
    are not fp16 yet are converted, and what overflows is measured and computes in fp32. With int8, a quarter of the
    disk and on processors faster, layers are calibrated on a short generation and timed, each both ways.

    \b
    diffrt export path/to/stable-diffusion-v1-5 sd15
    diffrt export organization/stable-diffusion-on-the-hub sd15
    diffrt export path/to/stable-diffusion-v1-5 sd15-fp16 --precision fp16
    diffrt export path/to/stable-diffusion-v1-5 sd15-int8 --precision int8
    diffrt export path/to/stable-diffusion-v1-5 sd15 --static 512x512 --force
    diffrt export model.safetensors my-bundle
    diffrt export sd15 sd15-steps --form step
    diffrt export sd15 sd15-single --form single --size 512x512 --steps 20,30
    diffrt export sd15 sd15-inpaint --form single --size 512x512 --task inpaint
    """
    size = None
    if static is not None:
        found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", static)
        if not found:
            raise InvalidArgument(f"--static is {static!r}: give height x width in pixels, such as 512x512")
        size = (int(found[1]), int(found[2]))
    of_single = {
        "task": task,
        "steps": steps,
        "scheduler": scheduler,
        "loop": loop,
        "tokenizer": tokenizer,
        "inputs": inputs,
    }
    single = {name: value for name, value in of_single.items() if value is not None}
    forms: dict[str, tuple[str, ...]] = {f"--{name}": ("single",) for name in single}
    onnx = ("components", "step", "single")
    forms |= {"--attention": onnx} if attention != "auto" else {}
    forms |= {"--prediction-type": onnx} if prediction_type is not None else {}
    forms |= {"--no-verify": onnx} if no_verify else {}
    forms |= {"--copy-weights": ("components", "step")} if copy_weights else {}
    forms |= {"--layout": ("components",)} if layout != "diffrt" else {}
    for option in (name for name, allowed in forms.items() if form not in allowed):
        raise InvalidArgument(f"{option} belongs to --form {' or '.join(forms[option])}: leave it out for {form}")
    say = lambda line: click.echo(line, err=True)  # noqa: E731
    if form == "stablehlo":
        from diffrt.flax import stablehlo

        stablehlo.export(source, dest, revision=revision, precision=precision, size=size, force=force, progress=say)
        return
    of_checkpoint: dict[str, Any] = {
        "precision": precision,
        "prediction_type": prediction_type,
        "verify": not no_verify,
    }
    try:
        if form == "single":
            from exporters import single as exporter

            exporter.export(
                source,
                dest,
                revision=revision,
                size=size,
                attention="ort" if attention == "auto" else attention,
                **_single_options(single),
                **of_checkpoint,
                force=force,
                progress=say,
            )
            return
        if form == "step":
            from exporters import step as step_exporter

            step_exporter.export(
                source,
                dest,
                revision=revision,
                attention=attention,
                static=size,
                copy_weights=copy_weights,
                **of_checkpoint,
                force=force,
                progress=say,
            )
            return
        from exporters import export as run_export
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("diffrt", "exporters"):
            raise
        raise DiffrtError(f"exporting needs {error.name}: pip install 'diffrt[export]'") from None
    run_export(
        source,
        dest,
        revision=revision,
        layout=layout,
        attention=attention,
        static=size,
        copy_weights=copy_weights,
        **of_checkpoint,
        force=force,
        progress=say,
    )


def _single_options(given: dict[str, str]) -> dict[str, Any]:
    """What exporters.single takes for --steps, --loop and the rest."""
    options: dict[str, Any] = dict(given)
    steps, loop = given.get("steps"), options.pop("loop", "scan")
    if "task" in given:
        options["task"] = given["task"].replace("-", "_")
    if steps is not None:
        if not re.fullmatch(r"\d{1,5}(,\d{1,5})*", steps):
            raise InvalidArgument(f"--steps is {steps!r}: give whole numbers, such as 1,4,8,20")
        options["steps"] = [int(n) for n in steps.split(",")]
    unrolled = re.fullmatch(r"unrolled:(\d{1,5})", loop)
    if not unrolled and loop != "scan":
        raise InvalidArgument(f"--loop is {loop!r}: give scan, or unrolled and a number of steps, such as unrolled:4")
    if unrolled:
        if steps is not None:
            raise InvalidArgument(f"--loop {loop} has one number of steps: leave out --steps")
        options |= {"unrolled": True, "steps": [int(unrolled[1])]}
    return options


@cli.command(short_help="Say what a bundle holds.")
@click.argument("bundle")
def inspect(bundle: str) -> None:
    """Print what BUNDLE (a name, a folder or an id on the hub) holds, after the checks that loading makes."""
    from diffrt import pipeline
    from diffrt.bundle import Bundle
    from diffrt.summary import summary

    click.echo(summary(Bundle.open(pipeline.find(bundle))))


@cli.command(short_help="Check a bundle's files and numbers on this machine.")
@click.argument("bundle")
@click.option("--provider", default="cpu", show_default=True, metavar="NAME", help="See diffrt providers.")
def verify(bundle: str, provider: str) -> None:
    """Check every byte of BUNDLE (a name, a folder or an id on the hub), and re-run each graph on its recorded probe.
    No PyTorch.
    """
    from diffrt import pipeline
    from diffrt.bundle import Bundle
    from diffrt.verify import FileCheck
    from diffrt.verify import verify as checks

    opened = Bundle.open(pipeline.find(bundle))
    for check in checks(opened, provider):
        if isinstance(check, FileCheck):
            click.echo(f"sha256 ok  {check.bytes:>13,} bytes  {check.file}")
        else:
            verdict = "within" if check.passed else "OUTSIDE"
            figures = f"relative L2 {check.relative_l2:.1e}, max abs {check.max_abs:.1e}"
            click.echo(f"{verdict} {check.tolerance:.0e}: {figures}  {check.component}  {check.file}")
    if opened.manifest.probe is None:
        click.echo("diffrt: exported with --no-verify: the files are intact, there are no numbers to check", err=True)


@cli.command(short_help="Keep a bundle's graphs ready in the cache.")
@click.argument("bundle")
@click.option("--provider", default="cpu", show_default=True, metavar="NAME", help="See diffrt providers.")
@click.option("--remove", is_flag=True, help="Remove what is kept.")
def prepare(bundle: str, provider: str, remove: bool) -> None:
    """Optimise the graphs of BUNDLE (a name, a folder or an id on the hub) once, and keep them in the user's cache.

    Loading takes them from there: a full-size model then opens in a second or two, and runs as fast. What is kept is as
    large as the weights; the bundle stays as it is.

    \b
    diffrt prepare my-bundle
    diffrt prepare my-bundle --remove
    """
    from diffrt import pipeline, prepared
    from diffrt.bundle import Bundle
    from diffrt.session import chosen, require

    opened = Bundle.open(pipeline.find(bundle))
    record = chosen(provider)
    require(record)
    if remove:
        for name in prepared.forget(opened, record):
            click.echo(f"removed  {name}")
        return
    for each in prepared.prepare(opened, record):
        click.echo(f"{each.bytes:>13,} bytes  {each.file}  {each.folder}")


@cli.command(short_help="Publish a bundle on the Hugging Face Hub.")
@click.argument("bundle")
@click.argument("repo_id", metavar="ID")
@click.option("--private", is_flag=True, help="Create it private; one that exists stays as it is.")
@click.option("--revision", metavar="BRANCH", help="Push to this branch, created where there is none.")
def push(bundle: str, repo_id: str, private: bool, revision: str | None) -> None:
    """Publish BUNDLE (a name or a folder) as ID, organization/name, in one commit, and print its address.

    Needs a token that may write: set HF_TOKEN, or run hf auth login. What goes up is what the manifest lists, and
    README.md and LICENSE.

    \b
    diffrt push my-bundle me/my-bundle --private
    """
    from diffrt import hub, pipeline

    click.echo(hub.push(pipeline.find(bundle), repo_id, private=private, revision=revision))


@cli.command(short_help="List what can compute here.")
def providers() -> None:
    """List the providers diffrt knows, and which of them are installed. auto is the fastest of those for a bundle."""
    from diffrt.providers import PROVIDERS
    from diffrt.session import available

    for name, here in available().items():
        record = PROVIDERS[name]
        state = "installed" if here else f"not installed: pip install 'diffrt[{record.extra}]'"
        click.echo(f"{name:14}  {record.library:12}  {state}")


@cli.command(short_help="List the samplers.")
def schedulers() -> None:
    """List the schedulers that --scheduler takes, by short name and by class."""
    from diffrt.schedulers import SCHEDULERS

    for name, cls in SCHEDULERS.items():
        says = re.split(r"(?<=[.])\s", " ".join((cls.__doc__ or "").split()))[0]
        click.echo(f"{name.removesuffix('Scheduler'):24}  {says}")
