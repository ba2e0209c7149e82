from lightning_bpd.cli import main

main()
