package main

import (
	"fmt"
	"log/slog"
	"time"

	"sluice/api"
	"sluice/jobs/action"
	"sluice/jobs/outbound"
)

// openAPICommand prints the description of the API. It needs neither a database nor a configuration.
type openAPICommand struct{}

// Run prints YAML.
func (openAPICommand) Run(std streams) error {
	face := api.New(api.Deps{
		Actions: action.New(outbound.New(outbound.Config{})), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		PublicURL: "http://localhost:8080", Version: version,
	})
	document, err := face.OpenAPI()
	if err != nil {
		return err
	}
	if _, err := std.out.Write(document); err != nil {
		return fmt.Errorf("write the description: %w", err)
	}
	return nil
}
