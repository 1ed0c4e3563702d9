"""Settings of a network behind a Triton server, for `predictor=triton`."""

from __future__ import annotations

from dataclasses import dataclass

from config.checks import check_choice, check_positive


@dataclass
class TritonSettings:
    """Which server, and how it is talked to.

    Attributes:
        address: of the server, `host:port`; empty takes `NVIDIA_CLARA_TRTISURI` from the environment.
        protocol: `http` (the server's port 8000), which costs least, or `grpc` (8001), which knows TLS by itself.
        model: its name in the server's model repository.
        requests: batches that are under way at once, at most: the server batches them, and never gets more.
        timeout_s: seconds that an answer may take, its turn in the server's queue included, before it is asked for
            again; a server that dies is noticed at once, whatever this says.
        patience_s: seconds for which a request is sent again, with growing pauses, before the slide fails.
        tls: talk to the server over TLS.
        certificates: file of the certificates that the server's is checked against; empty for the system's.
    """

    address: str = ""
    protocol: str = "http"
    model: str = "hovernet"
    requests: int = 4
    timeout_s: float = 300.0
    patience_s: float = 300.0
    tls: bool = False
    certificates: str = ""

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("triton.protocol", self.protocol, ("http", "grpc"))
        check_positive(requests=self.requests, timeout_s=self.timeout_s, patience_s=self.patience_s)
