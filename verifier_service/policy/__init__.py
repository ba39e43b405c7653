"""When passes start, which rows they carry, how sessions speculate. It knows no tensors: the simulator plays it too."""
