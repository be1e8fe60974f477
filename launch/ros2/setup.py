"""What colcon installs: an entry point, launch files and their settings. foreact itself comes by pip."""

from glob import glob

from setuptools import setup

NAME = "foreact_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.launch.py")),
        (f"share/{NAME}/config", glob("config/*.yaml")),
        (f"share/{NAME}/sros2", glob("sros2/*.xml")),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    description="ForeAct's bridge as a ROS 2 lifecycle node",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"bridge = {NAME}.bridge:main"]},
)
