package main

import (
	"fmt"
	"reflect"
	"strings"
)

// configTableCommand prints the table that the README holds between its marks.
type configTableCommand struct{}

// Run prints the table.
func (configTableCommand) Run(std streams) error {
	_, err := fmt.Fprint(std.out, configTable())
	return err
}

// configTable is the configuration as a table in Markdown, in the order of Config.
func configTable() string {
	var b strings.Builder
	b.WriteString("| variable | flag | default | for | what |\n|---|---|---|---|---|\n")
	config := reflect.TypeFor[Config]()
	for field := range config.Fields() {
		tag := field.Tag
		standard := "none"
		if value := tag.Get("default"); value != "" {
			standard = "`" + value + "`"
		}
		var commands []string
		for command := range strings.FieldsSeq(tag.Get("use")) {
			if strings.Contains(" "+tag.Get("need")+" ", " "+command+" ") {
				command = "**" + command + "**"
			}
			commands = append(commands, command)
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | %s | %s | %s |\n", tag.Get("from"), tag.Get("name"), standard, strings.Join(commands, ", "), tag.Get("help"))
	}
	return b.String()
}
