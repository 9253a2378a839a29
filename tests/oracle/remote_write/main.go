// A receiver of remote write 1.0 and 2.0 that is the one of Prometheus 3.x: its handler in front of its storage.
// Debian's Prometheus knows 1.0 only. What it has stored, `promtool tsdb dump DIR` tells after its end.
//
//	cd tests/oracle/remote_write && go run . 127.0.0.1:9099 DIR [OUT_OF_ORDER_WINDOW]
//
// To hold the sink against it, let the tests write there instead of into Debian's Prometheus:
//
//	go build -o receiver . && PROMETHEUS3_RECEIVER=$PWD/receiver ../../run remote_write::direct
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("receiver", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	options := tsdb.DefaultOptions()
	options.EnableExemplarStorage = true
	options.MaxExemplars = 1000
	if len(os.Args) > 3 {
		window, err := time.ParseDuration(os.Args[3])
		if err != nil {
			return err
		}
		options.OutOfOrderTimeWindow = window.Milliseconds()
	}
	db, err := tsdb.Open(os.Args[2], log, prometheus.NewRegistry(), options, nil)
	if err != nil {
		return err
	}
	defer db.Close()

	messages := remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType}
	mux := http.NewServeMux()
	mux.Handle("/api/v1/write", remote.NewWriteHandler(log, prometheus.NewRegistry(), db, messages, false, false))
	mux.HandleFunc("/-/ready", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: os.Args[1], Handler: mux}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	go func() {
		<-stop.Done()
		server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}
