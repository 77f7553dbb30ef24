"""An offline Africa's Talking (AT): phones on a page, AT's wire shapes, real callbacks, faults on demand.

It runs as its own process (``python -m simulator --help``) and imports nothing of the service it tests.
Importing starts nothing: ``simulator.app.create_app(config)`` builds the web application, and
``simulator.server.serve(config)`` runs it together with the threads that post callbacks.
"""
