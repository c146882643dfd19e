"""`latprune export`: a file that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latprune.cli.options import spread
from latprune.cli.options.data import Calibrating
from latprune.cli.options.network import Architecture, PrunedFile
from latprune.cli.options.output import AsJson
from latprune.cli.options.place import PlannedBatch
from latprune.cli.shown import complain, show


@spread
def export_command(
    *,
    network: Architecture,
    pruned: PrunedFile,
    to: Annotated[Path, typer.Option("--to", help="The file: NAME.onnx, .xml or .pt2.")],
    labelled: Calibrating,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="fp32, int8 or fp16 (.onnx); by default the plan's."),
    ] = None,
    batch: PlannedBatch = None,
    as_json: AsJson = False,
) -> None:
    """Write a pruned network as ONNX, for OpenVINO (.xml) or as .pt2.

    The file is read back and its outputs compared with torch's; it needs no latprune to run. For
    int8, as .onnx or .xml, --data calibrates. In fp16 an .onnx file is for GPUs: TensorRT computes
    in it.
    """
    from latprune.cli.live import working
    from latprune.export import export_onnx, export_openvino, export_pt2
    from latprune.surgery import load, load_plan

    if to.suffix not in (".onnx", ".xml", ".pt2"):
        sentence = f"{to} ends in none of .onnx, .xml (OpenVINO), .pt2"
        raise typer.BadParameter(sentence, param_hint="--to")
    target = load_plan(pruned).target
    wanted, samples = precision or target.precision, batch or target.batch
    in_int8, in_fp16 = wanted == "int8", wanted == "fp16" and to.suffix == ".onnx"
    _check_export(to, precision, in_int8=in_int8, has_data=labelled.data is not None)
    source = network.source().for_pruned(pruned)
    with working() as progress:
        dense = source.open()
        small, example = load(pruned, dense.model), dense.example(samples)
        progress.stage("export")
        to.parent.mkdir(parents=True, exist_ok=True)
        write = export_openvino if to.suffix == ".xml" else export_onnx
        if to.suffix == ".pt2":
            export_pt2(small, example, to)
        elif in_int8 and (data := labelled.open(dense)):
            write(
                small,
                example,
                to,
                precision="int8",
                calibration=data.calibration(labelled.calibration),
            )
        elif in_fp16:
            export_onnx(small, example, to, precision="fp16")
        else:
            write(small, example, to)
    files = [to, to.with_suffix(".bin")] if to.suffix == ".xml" else [to]
    size = sum(file.stat().st_size for file in files)
    written = wanted if in_int8 or in_fp16 else "fp32"
    found, planned = (
        f"{one}, batch {many}"
        for one, many in ((written, samples), (target.precision, target.batch))
    )
    if found != planned:
        complain(f"planned for {planned}; this is {found}")
    facts = {"file": str(to), "bytes": size, "precision": written, "batch": samples}
    show(facts if as_json else f"{to} ({size / 1e6:.2f} MB, {found}) agrees with torch")


def _check_export(to: Path, precision: str | None, *, in_int8: bool, has_data: bool) -> None:
    """Refuse what cannot be exported before anything is built."""
    if precision not in (None, "fp32", "fp16", "int8"):
        sentence = f"a file is written in fp32, fp16 or int8, not {precision}"
        raise typer.BadParameter(sentence, param_hint="--precision")
    if precision == "fp16" and to.suffix != ".onnx":
        sentence = f"fp16 is written as .onnx; give --precision fp32 for {to.suffix}"
        raise typer.BadParameter(sentence, param_hint="--to")
    if in_int8 and to.suffix == ".pt2":
        sentence = "int8 is written as .onnx or .xml; give --precision fp32 for .pt2"
        raise typer.BadParameter(sentence, param_hint="--to")
    if in_int8 and not has_data:
        sentence = "int8 needs --data to calibrate with; --precision fp32 does not"
        raise typer.BadParameter(sentence, param_hint="--data")
