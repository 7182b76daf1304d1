package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// healthCommand asks a process how it is, for images without a shell.
type healthCommand struct {
	URL     string        `name:"url" default:"http://127.0.0.1:8080/readyz" help:"What to ask: /healthz is whether the process runs, /readyz whether requests should come."`
	Timeout time.Duration `name:"timeout" default:"2s" help:"How long to wait for the answer."`
}

// healthBytesMax bounds what is shown of an answer.
const healthBytesMax = 4 << 10

// Run asks once; any answer but a 2xx is an error.
func (c healthCommand) Run(ctx context.Context, std streams) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return usage("--url: %w", err)
	}
	// No proxy of the environment stands between a process and itself.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, healthBytesMax))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.URL, err)
	}
	fmt.Fprintf(std.out, "%s %s\n", response.Status, oneLine(body))
	if response.StatusCode/100 != 2 {
		return errSilent
	}
	return nil
}
