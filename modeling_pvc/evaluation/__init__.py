# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Evaluation by lmms-eval, which finds `manifest` by its entry point group; docs/evaluation.md."""


def manifest():
    """What lmms-eval's registry wants to know of the model `pvc`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="pvc", chat_class_path="modeling_pvc.evaluation.lmms_eval_model.PVC")
