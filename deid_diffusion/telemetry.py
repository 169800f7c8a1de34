"""Switches off what libraries tell their makers. Nothing here contacts anybody but the Hub, for a model asked for."""

from __future__ import annotations

import os
import sys

# What each library reads once, when it is imported. DO_NOT_TRACK is for those that nobody has thought of.
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime >= 1.29 else writes a device id and queues events at every start
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and diffusers and transformers through it
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",  # of a cluster that is started here; who starts one elsewhere sets it there
}


def switch_off() -> None:
    """For this process and its children, whatever the environment says: to be called before any library loads."""
    os.environ.update(SWITCHES)
    # openvino has no switch: without this package it takes its own stub, with it `import openvino` writes a client
    # id into the home folder and sends an event.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    # Who imported a library before us has let it read the environment already.
    for name in ("huggingface_hub.constants", "diffusers.utils.hub_utils"):
        if name in sys.modules:
            vars(sys.modules[name])["HF_HUB_DISABLE_TELEMETRY"] = True
    if stop := getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None):
        stop()
