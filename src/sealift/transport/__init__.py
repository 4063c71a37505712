"""The only sockets, files, clocks and processes of the host wing.

Modules are imported by name: ``sealift.transport.build`` makes bundles,
``sealift.transport.bundle_folder`` unpacks and reads them back.
"""
