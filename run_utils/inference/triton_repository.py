"""A network as a Triton server's model repository, and what the server knows of it: written here, read by clients."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from config.export import TritonExportSettings
from models.hovernet.checkpoint import Network
from models.hovernet.weight_files import digest_weights
from run_utils.inference.engines.graph import INPUT, output_names

CONFIG, SOURCE, MODEL = "config.pbtxt", "model.py", "model.onnx"
VERSION_DIGITS = 12  # hexadecimal; Triton takes 63 bits
MODEL_SOURCE = Path(__file__).with_name("triton_model.py")  # read, never imported: it runs on the server
FACTS = "hovernet"  # the parameter's name
RUNNERS = {"onnxruntime": 'platform: "onnxruntime_onnx"', "python": 'backend: "python"'}
FULL, SMALL = ("FP32",) * 3, ("UINT8", "FP16", "UINT8")  # number formats of nuclei, hv and types
MICROSECONDS = 1000  # a millisecond
SIZES = ("margin", "multiple", "remainder", "smallest")  # of a geometry, which maps depend on


class ServedModel(NamedTuple):
    """What a server says of the network that it runs.

    Attributes:
        digest: of its weights, as `digest_network` gives it.
        geometry: the sizes of a Geometry, by name.
        num_types: number of types, background counted; None for a network without types.
        window: side in pixels of the windows that it is to be sent.
        is_fixed: whether it takes no others.
        is_small: whether it gives uint8 probabilities and float16 HV maps.
        largest_batch: windows of one request, at most.
        precision: number format of the computation.
    """

    digest: str
    geometry: dict[str, Any]
    num_types: int | None
    window: int
    is_fixed: bool
    is_small: bool
    largest_batch: int
    precision: str = "float32"

    @classmethod
    def of_export(cls, network: Network, settings: TritonExportSettings) -> ServedModel:
        """Return what a server will say of a network that is exported."""
        return cls(
            digest=digest_network(network),
            geometry=dataclasses.asdict(network.geometry),
            num_types=network.num_types,
            window=settings.window,
            is_fixed=settings.fixed,
            is_small=settings.is_small,
            largest_batch=settings.batch,
        )

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ServedModel:
        """Read a model's configuration as a server gives it; ValueError where it is not an export of ours."""
        try:
            facts = json.loads(config["parameters"][FACTS]["string_value"])
            return cls(**{name: facts[name] for name in cls._fields})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the server's model {config.get('name', '')!r} does not say which network it is; "
                "write its folder with export_model.py to=triton"
            ) from error

    @property
    def version(self) -> str:
        """The version's number, made of all that maps depend on: who asks for it never gets those of another."""
        content = [self.digest, self.geometry, self.num_types, self.is_small, self.precision]
        text = json.dumps(content, sort_keys=True, default=str)
        return str(int(hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS], 16))

    def differs_from(self, network: Network) -> str:
        """Say in what the server's network differs from one at hand; empty where it is the same."""
        own = dataclasses.asdict(network.geometry)
        pairs = {
            "weights": (self.digest[:12], digest_network(network)[:12]),
            "types": (self.num_types, network.num_types),
            **{name: (self.geometry.get(name), own[name]) for name in SIZES},
        }
        return ", ".join(
            f"{name} {served} instead of {ours}" for name, (served, ours) in pairs.items() if served != ours
        )


def digest_network(network: Network) -> str:
    """Return the digest by which weights are told apart."""
    return network.facts.digest or digest_weights(network.state_dict())


def repository_files(network: Network, settings: TritonExportSettings) -> list[str]:
    """Return the files of a model's folder, the network last."""
    version = ServedModel.of_export(network, settings).version
    names = [SOURCE, MODEL] if settings.backend == "python" else [MODEL]
    return [CONFIG, *(f"{version}/{name}" for name in names)]


def write_config(
    network: Network, facts: Mapping[str, Any], settings: TritonExportSettings, path: Path
) -> None:
    """Write a model's folder but for the network itself, whose path is given.

    Args:
        network: the network.
        facts: of it, plain data.
        settings: how the server is to run it.
        path: of the network's file.

    Raises:
        ValueError: where windows are to be of a fixed size that the network does not take.
    """
    if settings.fixed:
        network.geometry.check(settings.window)
    served = ServedModel.of_export(network, settings)
    folder = path.parents[1]
    content = {**facts, **served._asdict()}
    (folder / CONFIG).write_text(_describe(network, content, settings, served.version))
    if settings.backend == "python":
        path.with_name(SOURCE).write_bytes(MODEL_SOURCE.read_bytes())


def _describe(
    network: Network, facts: Mapping[str, Any], settings: TritonExportSettings, version: str
) -> str:
    """Return a model's configuration as protobuf text."""
    side = settings.window if settings.fixed else -1
    inner = side - network.geometry.margin if settings.fixed else -1
    channels: Sequence[tuple[int, ...]] = ((), (2,), (network.num_types or 0,))
    outputs = ",\n".join(
        f'  {{ name: "{name}" data_type: TYPE_{kind} dims: {[*count, inner, inner]} }}'
        for name, kind, count in zip(
            output_names(network), SMALL if settings.is_small else FULL, channels, strict=False
        )
    )
    parameters = {
        FACTS: json.dumps(facts, default=str),
        "intra_op_thread_count": str(settings.threads),
    }
    return "\n".join(
        [
            f"name: {_quoted(settings.model)}",
            RUNNERS[settings.backend],
            f"version_policy {{ specific {{ versions: [{version}] }} }}",
            f"max_batch_size: {settings.batch}",
            f'input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: {[side, side, 3]} }} ]',
            f"output [\n{outputs}\n]",
            "dynamic_batching {",
            f"  preferred_batch_size: {settings.preferred_batches or [settings.batch]}",
            f"  max_queue_delay_microseconds: {round(settings.delay_ms * MICROSECONDS)}",
            f"  default_queue_policy {{ max_queue_size: {settings.queue} }}",
            "}",
            f"instance_group [ {{ count: {settings.instances} kind: KIND_{settings.device.upper()} }} ]",
            *(
                f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
                for key, value in parameters.items()
            ),
            "",
        ]
    )


def _quoted(text: str) -> str:
    return json.dumps(text)  # of ASCII text without control characters, which is protobuf's way too
