"""When passes start, which rows they carry, how sessions speculate. No tensors: the simulator plays it, too."""
