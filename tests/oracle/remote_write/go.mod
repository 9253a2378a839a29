module github.com/choria-io/prometheus-streams/tests/oracle/remote_write

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
