package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealthCommand() *cobra.Command {
	var (
		running overrides
		base    string
		live    bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the running blessd whether it can accept deliveries",
		Long: `Asks the running blessd whether it can accept deliveries, as /-/ready says, for
supervisors that run a command: a container's health check, a script. With
--live it asks whether the process serves at all, as /-/healthy says: for
supervisors that restart what is not, which does a full journal no good.

NATS being away is not unready: deliveries go to the journal meanwhile.

Exit status: 0 when it is, 1 when it is not or does not answer, 2 when the
command line is wrong.`,
		Example: `  blessd health
  blessd health --live -c /etc/blessd/blessd.yaml
  blessd health --admin-url https://blessd.internal:8081`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return fmt.Errorf("%w: --timeout must be above 0", errUsage)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			path := "/-/ready"
			if live {
				path = "/-/healthy"
			}
			said, err := askHealth(ctx, &running, base, path)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), said)
			return nil
		},
	}
	addFindFlags(cmd, &running)
	cmd.Flags().StringVar(&base, "admin-url", "", "`URL` of the admin listener (default: that of the running blessd)")
	cmd.Flags().BoolVar(&live, "live", false, "ask whether it serves at all, not whether it accepts deliveries")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	return cmd
}

// askHealth returns what the admin listener says of itself, and an error unless it
// is well. The listener says it to everybody who may ask anything.
func askHealth(ctx context.Context, running *overrides, base, path string) (string, error) {
	if base == "" {
		_, a, err := findRunning(running)
		if err != nil {
			return "", err
		}
		base = "http://" + reachable(a.Admin)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+path, nil)
	if err != nil || q.URL.Host == "" || q.URL.User != nil {
		return "", fmt.Errorf("%w: --admin-url must be a URL like https://127.0.0.1:8081, without a password", errUsage)
	}
	answer, err := client().Do(q)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return "", fmt.Errorf("blessd does not answer in time at %s", base)
		}
		return "", fmt.Errorf("blessd does not answer at %s: is it running? `blessd serve` starts it", base)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 512)) // what of it arrived
	said := strings.TrimSpace(strings.ToValidUTF8(string(text), ""))
	switch answer.StatusCode {
	case http.StatusOK:
		return said, nil
	case http.StatusUnauthorized:
		// Whoever asks for a password serves; whether it is ready it keeps to itself.
		if path == "/-/healthy" {
			return "blessd answers, and wants a password", nil
		}
		return "", fmt.Errorf("the admin listener at %s wants a password: ask with --live, or with curl", base)
	}
	return "", fmt.Errorf("blessd says: %s", said)
}
