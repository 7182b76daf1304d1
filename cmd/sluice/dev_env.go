package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// devEnv is what `sluice dev` tells a shell: `. .sluice/dev.env`.
type devEnv struct {
	URL, MetricsURL                string
	OperatorKey, Key, TenantID     string
	Model                          string
	OwnerDatabaseURL               string
	StripeURL, StripeSecret        string
	GitHubURL, GitHubSecret        string
	TargetURL, ProviderURL         string
	GitHubAPIURL, GitHubToken      string
	StripeEndpoint, GitHubEndpoint string
}

// variables are the lines of the file, in order.
func (e *devEnv) variables() []struct {
	name  string
	value *string
} {
	return []struct {
		name  string
		value *string
	}{
		{"SLUICE_URL", &e.URL},
		{"SLUICE_OPERATOR_KEY", &e.OperatorKey},
		{"SLUICE_KEY", &e.Key},
		{"SLUICE_TENANT_ID", &e.TenantID},
		{"SLUICE_MODEL", &e.Model},
		{"SLUICE_OWNER_DATABASE_URL", &e.OwnerDatabaseURL},
		{"SLUICE_METRICS_URL", &e.MetricsURL},
		{"SLUICE_STRIPE_ENDPOINT_ID", &e.StripeEndpoint},
		{"SLUICE_STRIPE_URL", &e.StripeURL},
		{"SLUICE_STRIPE_SECRET", &e.StripeSecret},
		{"SLUICE_GITHUB_ENDPOINT_ID", &e.GitHubEndpoint},
		{"SLUICE_GITHUB_URL", &e.GitHubURL},
		{"SLUICE_GITHUB_SECRET", &e.GitHubSecret},
		{"SLUICE_TARGET_URL", &e.TargetURL},
		{"SLUICE_SCRIPTED_URL", &e.ProviderURL},
		{"SLUICE_GITHUB_API_URL", &e.GitHubAPIURL},
		{"SLUICE_GITHUB_TOKEN", &e.GitHubToken},
	}
}

// read fills in what the file says; a file that is not there says nothing.
func (e *devEnv) read(path string) error {
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer file.Close()
	values := map[string]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if name, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "="); ok {
			values[strings.TrimPrefix(name, "export ")] = value
		}
	}
	for _, v := range e.variables() {
		*v.value = values[v.name]
	}
	return lines.Err()
}

// write replaces the file at once, readable by its owner alone. No value needs quoting.
func (e *devEnv) write(path string) error {
	var text strings.Builder
	for _, v := range e.variables() {
		fmt.Fprintf(&text, "%s=%s\n", v.name, *v.value)
	}
	temporary := filepath.Join(filepath.Dir(path), ".dev.env.new")
	if err := os.WriteFile(temporary, []byte(text.String()), devFileMode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
