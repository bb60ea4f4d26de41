"""From the journal to the sinks: one shipper for each pair, at its own pace."""
