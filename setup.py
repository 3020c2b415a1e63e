"""What setup.cfg cannot say: in a wheel, the folder configs/ is the package unified_fm.configs."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["unified_fm", "unified_fm.*"]),
        "unified_fm.configs",
        "unified_fm.configs.finetune",
    ],
    package_dir={"unified_fm.configs": "configs"},
)
