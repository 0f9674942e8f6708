"""From one prompt or seed to another and back: an animated WebP or GIF, without PyTorch.

    python interpolate.py "a cat" "a dog" --seed 3 8 --frames 24 -o cat-dog.gif
    python interpolate.py "a red apple" --seed 1 2
    python interpolate.py "a blue heart" "a red apple" --seed 21 --frames 20

The last one draws interpolation.webp.
"""

import argparse

import numpy as np
from PIL import Image
from tqdm import tqdm

import diffrt
from diffrt import noise
from diffrt.interpolate import lerp, slerp


def frames_of(pipe: diffrt.Pipeline, prompts: list[str], seeds: list[int], t: np.ndarray, batch: int, **arguments):
    """A picture for each t in [0,1]: embeddings along a line, noise along a great circle."""
    embeds = pipe.embed([prompts[0], prompts[-1]], chunks="auto")  # [2,S,D]
    size, latents = pipe.bundle.manifest.defaults, pipe.bundle.manifest.latents
    shape = latents["channels"], size.height // latents["scale_factor"], size.width // latents["scale_factor"]
    start, end = noise.randn(noise.generators([seeds[0], seeds[-1]]), shape)
    with tqdm(total=len(t), unit="frame") as bar:
        for part in np.split(t, range(batch, len(t), batch)):
            between = {"prompt_embeds": lerp(*embeds, part), "latents": slerp(start, end, part)}
            yield from pipe(**between, chunks="auto", **arguments).images
            bar.update(len(part))


def save(frames: list[Image.Image], file: str, zoom: int, milliseconds: int) -> None:
    """There and back again without end."""
    loop = [frame.resize((frame.width * zoom, frame.height * zoom), Image.Resampling.BICUBIC) for frame in frames]
    loop += loop[-2:0:-1]
    loop[0].save(file, save_all=True, append_images=loop[1:], duration=milliseconds, loop=0, quality=90, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="+", help="one or two")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="one or two (0)")
    parser.add_argument("--frames", type=int, default=16, help="from one end to the other (16)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (20)")
    parser.add_argument("--guidance", type=float, help="the model's own if left out")
    parser.add_argument("--negative", default="", help="what to keep out")
    parser.add_argument("--model", default="emoji", help="a bundle's name or folder (emoji)")
    parser.add_argument("--batch", type=int, default=4, help="frames drawn at once (4)")
    parser.add_argument("--zoom", type=int, default=2, help="times as large (2)")
    parser.add_argument("--milliseconds", type=int, default=80, help="a frame lasts (80)")
    parser.add_argument("-o", "--output", default="interpolation.webp", help="a .webp or .gif file")
    args = parser.parse_args()
    if len(args.prompts) > 2 or len(args.seed) > 2 or min(args.frames - 1, args.batch, args.zoom) < 1:
        parser.error("give one or two prompts, one or two seeds and at least two frames")
    if not args.output.lower().endswith((".webp", ".gif")):
        parser.error(f"cannot write {args.output}: the name must end in .webp or .gif")
    pipe = diffrt.load(args.model)
    # a sampler that draws no noise on its way: the frames would flicker
    pipe.scheduler = diffrt.schedulers.DDIMScheduler.from_config(pipe.scheduler.config)
    t = np.linspace(0, 1, args.frames)
    asked = {"num_inference_steps": args.steps, "guidance_scale": args.guidance, "negative_prompt": args.negative}
    save(
        list(frames_of(pipe, args.prompts, args.seed, t, args.batch, **asked)),
        args.output,
        args.zoom,
        args.milliseconds,
    )


if __name__ == "__main__":
    main()
