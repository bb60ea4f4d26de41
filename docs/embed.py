"""Mount segsrv in an aiohttp application of your own: `python docs/embed.py`."""

from pathlib import Path

from aiohttp import web

from segsrv import Settings, create_app

app = web.Application()
settings = Settings(data_dir=Path("segsrv-data"), write_key=("my-key",))
app.add_subapp("/ingest", create_app(settings))

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8081)
