"""`onnxlrp demo`: the main job on a bundled model and bundled images."""

from __future__ import annotations

from pathlib import Path

import click

from onnxlrp.report.clever_hans import Story, tell
from onnxlrp.report.summary import as_json as as_document

from .application import COMMANDS
from .options import json_option, provider_option
from .printing import print_json, print_table, progress, say, warn


@click.command("demo", short_help=COMMANDS["demo"])
@click.option(
    "-o",
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("onnxlrp-demo"),
    show_default=True,
    metavar="DIR",
    help="Where the pictures are written.",
)
@provider_option
@json_option
def command(folder: Path, provider: str, as_json: bool) -> None:
    """Explain a bundled shape classifier that is right for a wrong reason.

    Writes heatmaps by LRP and by sensitivity analysis, and says what they show.

    \b
    Example:
      onnxlrp demo
      onnxlrp demo -o heatmaps
    """
    with progress("explaining") as report:
        story = tell(folder, provider, report)
    if as_json:
        print_json(as_document(story.as_dict()))
        return
    warn(story.found.warnings)
    _print(story, folder)


def _print(story: Story, folder: Path) -> None:
    rows = [
        (
            scene.name,
            f"{scene.predicted} {scene.probability:.1%}",
            f"{scene.share['lrp']:.0%}",
            f"{scene.share['sensitivity']:.0%}",
        )
        for scene in story.scenes
    ]
    say(f"Relevance on the watermark's place, which is {story.area:.0%} of the picture:\n")
    print_table(rows, ("image", "predicted", "LRP", "sensitivity"), numbers=(2, 3))
    say()
    for line in story.lines:
        say(line)
    figures = [file for entry in story.found.entries for file in entry.files if "-figure" in file]
    say(f"\nLook at {folder / figures[1]} and its neighbours:")
    for file in figures:
        say(f"  {folder / file}")
