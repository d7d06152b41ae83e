package main

import (
	"github.com/spf13/cobra"

	"github.com/blessd/blessd/event"
)

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema [event]",
		Short: "Print the JSON Schema of what blessd publishes",
		Long: `Prints the JSON Schema (draft 2020-12) of the event that each NATS message holds.

Fields are only ever added and new event types may appear, so a consumer that
validates should expect both: the schema allows fields that it does not name.`,
		Example: `  blessd schema > event.schema.json
  blessd schema event`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"event"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(event.Schema())
			return err
		},
	}
}
