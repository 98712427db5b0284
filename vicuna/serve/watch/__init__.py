"""What operators see: metrics, logs, traces, the page about the fleet."""
