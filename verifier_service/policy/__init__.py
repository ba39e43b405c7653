"""When passes start, which rows they carry, and how sessions speculate. No tensors here: the simulator uses it too."""
