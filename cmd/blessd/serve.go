package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

// stopTime bounds a whole stop; each part of it has a bound of its own.
const stopTime = 15 * time.Second

func newServeCommand() *cobra.Command {
	var o overrides
	var acceptReset bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: `Run the daemon until SIGINT or SIGTERM. SIGHUP reloads the configuration.

Without a configuration file it starts an embedded NATS server and one endpoint
per provider, each with a generated token in its URL, and keeps all of it in the
data directory. What is printed then are URLs to paste at the providers: they
are secrets.`,
		Example: `  blessd serve
  blessd serve --public-url https://hooks.example.com
  blessd serve -c /etc/blessd/blessd.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load(os.LookupEnv)
			if err != nil {
				return fmt.Errorf("the configuration cannot be used:\n%w", err)
			}
			log, err := newLogger(cfg.Log.Level, cfg.Log.Format)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }() // stderr of a terminal cannot be synced
			warn(cfg, log, cmd.ErrOrStderr())
			if acceptReset && cfg.acknowledgesStream() {
				log.Warn("nothing to accept: with acknowledge: stream nobody notes where the streams stand")
			}
			d := newDaemon(cfg, log)
			d.acceptReset = acceptReset
			return d.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&acceptReset, "accept-stream-reset", false, "take back the alarm of a stream that went backwards, for this start only")
	return cmd
}

// warn says what is doubtful in the configuration: to people with the line of the
// file, and as part of the log where a program reads it.
func warn(cfg *Config, log *zap.Logger, talk io.Writer) {
	for _, w := range cfg.warnings {
		if logFormat(cfg.Log.Format) == "json" {
			log.Warn("configuration needs a look", zap.String("problem", w.head()), zap.String("mend", w.Mend))
		} else {
			fmt.Fprintln(talk, "warning:", w)
		}
	}
}

// run runs the daemon until ctx is done or it cannot go on.
func (d *daemon) run(ctx context.Context, out io.Writer) error {
	// From here on SIGHUP does not end the program: one that comes early waits.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	log := d.log
	var err error
	if d.sockets, err = passedSockets(); err != nil {
		return err
	}
	if err := d.Start(ctx); err != nil {
		return err
	}
	if err := d.greet(out); err != nil {
		return errors.Join(err, d.Stop(ctx))
	}
	log.Info("blessd is ready", zap.String("version", currentVersion().Version),
		zap.String("hooks", d.addresses.Hooks), zap.String("admin", d.addresses.Admin), zap.String("nats", d.addresses.NATS))
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.startWatchdog(running); err != nil {
		log.Warn("no watchdog", zap.Error(err))
	}
	d.notify(sd.SdNotifyReady)
	failed := d.wait(ctx, hangup)
	d.notify(sd.SdNotifyStopping)
	if failed != nil {
		log.Error("blessd cannot go on and stops", zap.Error(failed))
	} else {
		log.Info("stopping: answering what is in flight, then publishing what is left")
	}
	stopping, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancelStop()
	err = d.Stop(stopping)
	if failed == nil && err == nil {
		log.Info("stopped")
	}
	return errors.Join(failed, err)
}

// wait returns when ctx is done, or with the reason why the daemon cannot go on.
func (d *daemon) wait(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.Failed():
			return err
		case <-hangup:
			d.Reload("SIGHUP")
		}
	}
}
