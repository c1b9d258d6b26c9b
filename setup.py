"""Packages of the distribution: the folder ``service`` is installed as ``bnp_online_server``."""

from setuptools import find_namespace_packages, setup

folders = find_namespace_packages(
    include=["bnp_online*", "service*"], exclude=["service.client", "*__pycache__"]
)
setup(
    packages=[folder.replace("service", "bnp_online_server", 1) for folder in folders],
    package_dir={"bnp_online_server": "service"},
)
