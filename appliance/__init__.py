"""DICOM in, model results out: an edge inference appliance.

The layers, top to bottom (imports only point down, ``lint-imports`` checks it): ``cli``, ``services``,
``pipeline`` and ``console``, then ``intake``, ``modelrepo``, ``imaging``, ``backends``, ``readout``, ``results``
and ``delivery`` (which never import each other), ``journal``, ``spool`` and ``observability``, ``config`` and
``manifest``, ``domain``, ``errors``.
"""
