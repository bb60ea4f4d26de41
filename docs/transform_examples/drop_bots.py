"""Crawlers leave the journal here, and reach no sink."""


def drop_bots(event, context):
    for holder in (event, event.get("eventn_ctx"), event.get("context")):
        if isinstance(holder, dict) and is_bot(holder):
            return None
    return event


def is_bot(holder):
    agent = holder.get("parsed_ua") or holder.get("parsedUserAgent")
    return isinstance(agent, dict) and agent.get("bot") is True
