// Package main is the one binary: a file per subcommand. It is where configuration, the clock, the signals and the standard streams come in,
// and where the rooms are put together. What must not enter: anything that a room could do; a subcommand reads, wires, starts and reports.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	_ "time/tzdata" // Tenants have time zones, and the image has no files of them.

	"github.com/alecthomas/kong"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "dev"

// The codes that the process ends with.
const (
	exitOK    = 0
	exitFault = 1 // it was tried, and went wrong
	exitUsage = 2 // it was not tried: the command line or the configuration is at fault
)

// commands is the command line, with a field per subcommand.
type commands struct {
	Config

	Dev         devCommand         `cmd:"" help:"Run all of Sluice on this machine: a private Postgres, API, workers, a scripted model, a demo."`
	Serve       serveCommand       `cmd:"" help:"Serve the API and take in webhooks."`
	Work        workCommand        `cmd:"" help:"Work on what was taken in: call models, post actions."`
	Migrate     migrateCommand     `cmd:"" help:"Bring the database up, take it down, or say how far it is."`
	OperatorKey operatorKeyCommand `cmd:"" help:"Make, list and revoke keys of the operator."`
	Keys        masterKeyCommand   `cmd:"" name:"master-key" help:"Change the keys that secrets are sealed under, and check that all of them open."`
	Ledger      ledgerCommand      `cmd:"" help:"Check the ledger, hold it against a provider's export, rebuild its sums."`
	Doctor      doctorCommand      `cmd:"" help:"Hold a database against what is promised of it, and say what to do; exit code 0 is clean, 1 is not, 2 could not look. Writes nothing."`
	Send        sendCommand        `cmd:"" help:"Sign a sample event as its source would, and post it; without arguments, list the samples."`
	Health      healthCommand      `cmd:"" help:"Ask a /readyz; exit code 0 is ready."`
	Bench       benchCommand       `cmd:"" help:"Measure this machine, each figure beside a yardstick of the same run."`
	OpenAPI     openAPICommand     `cmd:"" name:"openapi" help:"Print the description of the API."`
	ConfigTable configTableCommand `cmd:"" hidden:"" help:"Print the table of the configuration."`
	Version     versionCommand     `cmd:"" help:"Print the version."`
}

// streams are what a command reads from and writes to.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.LookupEnv, streams{os.Stdin, os.Stdout, os.Stderr}))
}

// ended carries an exit code out of kong, which ends the process itself after --help.
type ended int

// run is main without the process: it returns the exit code. One line per fault goes to the error stream.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), std streams) (code int) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case ended:
			code = int(v)
		default:
			panic(v)
		}
	}()
	var cli commands
	found := newSettings(lookup)
	parser, err := kong.New(&cli, append(found.options(),
		kong.Name("sluice"), kong.Description("Webhooks in, acts of an AI out: at the pace, the price and the degree of trust that each tenant has set."),
		kong.Writers(std.out, std.err), kong.Exit(func(code int) { panic(ended(code)) }),
		kong.ValueFormatter(helpOf), kong.Help(help),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(std), kong.Bind(&cli.Config), kong.Bind(environment(lookup)),
	)...)
	if err != nil {
		return fail(std, exitFault, err)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return fail(std, exitUsage, err)
	}
	if faults := found.check(parsed); len(faults) > 0 {
		for _, fault := range faults {
			fmt.Fprintf(std.err, "sluice: %s\n", fault)
		}
		return exitUsage
	}
	switch err := parsed.Run(); {
	case err == nil:
		return exitOK
	case errors.As(err, new(usageError)):
		return fail(std, exitUsage, err)
	default:
		return fail(std, exitFault, err)
	}
}

// environment looks a variable up.
type environment func(string) (string, bool)

// A usageError is a fault of the command line that only the command itself could see.
type usageError struct{ error }

// usage makes a usageError.
func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errSilent is a failure that was told already.
var errSilent = errors.New("failed")

// fail writes each fault of err on a line of its own, and returns code.
func fail(std streams, code int, err error) int {
	if errors.Is(err, errSilent) {
		return code
	}
	// What begins with a tab goes on with the line before it: so the driver lists the addresses that it tried.
	for line := range strings.Lines(strings.ReplaceAll(err.Error(), "\n\t", " ")) {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintf(std.err, "sluice: %s\n", line)
		}
	}
	return code
}

// helpOf adds the variable to the help of a setting.
func helpOf(v *kong.Value) string {
	if v.Tag != nil && v.Tag.Has("from") {
		return strings.TrimSuffix(v.Help, ".") + " ($" + v.Tag.Get("from") + ")."
	}
	return v.Help
}

// help shows a command's own settings, and no other's.
func help(options kong.HelpOptions, ctx *kong.Context) error {
	for _, flag := range ctx.Model.Flags {
		if isSetting(flag) {
			flag.Hidden = !uses(flag, "use", commandOf(ctx))
		}
	}
	options.Compact, options.NoExpandSubcommands = true, slices.Contains(ctx.Args, "--help") && ctx.Selected() == nil
	return kong.DefaultHelpPrinter(options, ctx)
}
