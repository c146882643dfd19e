"""CHECK: predicted beside measured, dense beside pruned."""
