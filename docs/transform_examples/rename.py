"""Fields and events get the names that a warehouse expects."""

FIELDS = {"prodId": "product_id", "Product ID": "product_id"}
EVENTS = {"Purchase": "Order Completed"}


def rename(event, context):
    renamed = {FIELDS.get(name, name): value for name, value in event.items()}
    if "event" in renamed:
        renamed["event"] = EVENTS.get(renamed["event"], renamed["event"])
    return renamed
