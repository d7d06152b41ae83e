package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/goccy/go-json"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/common/version"
	"github.com/spf13/cobra"
)

// versionInfo is what `blessd version -o json` prints.
type versionInfo struct {
	Version    string `json:"version"`
	Commit     string `json:"commit"`
	GoVersion  string `json:"go_version"`
	NATSServer string `json:"nats_server"`
	Platform   string `json:"platform"`
}

// currentVersion takes the version from the linker (see the Makefile) and, for a
// binary made by a plain go build or go install, from what Go recorded in it.
func currentVersion() versionInfo {
	v := versionInfo{
		Version:    version.Version,
		Commit:     "unknown",
		GoVersion:  runtime.Version(),
		NATSServer: server.VERSION,
		Platform:   runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v.Version == "" {
			v.Version = info.Main.Version
		}
		settings := make(map[string]string)
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if c := settings["vcs.revision"]; c != "" {
			v.Commit = c
		}
		if settings["vcs.modified"] == "true" {
			v.Commit += " (modified)"
		}
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	return v
}

// String is what people read.
func (v versionInfo) String() string {
	return fmt.Sprintf("blessd %s\n  commit       %s\n  go           %s\n  nats-server  %s\n  platform     %s\n",
		v.Version, v.Commit, v.GoVersion, v.NATSServer, v.Platform)
}

func newVersionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of blessd and of the NATS server in it",
		Example: `  blessd version
  blessd version -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := currentVersion()
			switch format {
			case "json":
				b, err := json.Marshal(v)
				if err != nil {
					return fmt.Errorf("version: %w", err)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
				return err
			case "text":
				_, err := fmt.Fprint(cmd.OutOrStdout(), v)
				return err
			}
			return badFormat(format)
		},
	}
	addFormatFlag(cmd, &format)
	return cmd
}
