"""Crawlers leave the journal here, and reach no sink."""


def drop_bots(event, context):
    user_agent = event.get("parsed_ua") or event.get("eventn_ctx", {}).get("parsed_ua") or {}
    return None if user_agent.get("bot") else event
