# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Which packages are installed; all else is in setup.cfg.

`conversion`, which does not travel with checkpoints, lies beside `modeling_pvc` here. Its name is too general for an
installation: there it is a part of it, `modeling_pvc.conversion`.
"""

from setuptools import find_packages, setup


setup(
    packages=[*find_packages(include=["modeling_pvc", "modeling_pvc.*"]), "modeling_pvc.conversion"],
    package_dir={"modeling_pvc.conversion": "conversion"},
)
