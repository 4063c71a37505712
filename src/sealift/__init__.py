"""Sealift: confidential applications whose enclave code can change.

State sealed under one MRENCLAVE is lifted, by a scheduled and governed
handover, to the next. The map of the house (the linter enforces it)::

                        cli
         ┌───────────────┴──────────────┐
         │                              │
     HOST     worker  |  client  |  node        never each other
                └───────────┼──────────┘
                      insecure_sim           the simulated platform (protects nobody)
                        transport            sockets, files, processes, clocks
     ═════════════════════════════════════ bytes only ═════
     ENCLAVE            enclave              the one door: ECALLs
                  stf   |  provisioning      never each other
     ──────────────────────────────────────────────────────
     FOUNDATION   ledger | evidence          the L1 runtime; lineage, verified offline
                         bundle              the measured file, SIGSTRUCT
                   relay | attestation       sans-I/O verifiers
                         frame               what a runtime is made of
                        protocol             messages that cross a trust boundary
                         crypto              the one door to cryptography
                          base               ids, codec, error root
     workshop (nothing imports it): testing

The host wing never imports the enclave wing.
"""

__version__ = "0.1.0"
