"""What dstjax costs, measured: run time, compile time, memory and communication, each beside a dense optimiser."""
