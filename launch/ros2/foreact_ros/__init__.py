"""Launch files and the entry point of ForeAct's ROS 2 node."""
