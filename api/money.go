package api

import (
	"math/big"
	"strings"
)

// picoDigits is how many decimal places a pico-USD has.
const picoDigits = 12

// usd writes an amount of pico-USD as a decimal of USD: exact, without zeros at its end, at least "0".
func usd(pico *big.Int) string {
	digits := new(big.Int).Abs(pico).String()
	if short := picoDigits + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	whole, part := digits[:len(digits)-picoDigits], strings.TrimRight(digits[len(digits)-picoDigits:], "0")
	text := whole
	if part != "" {
		text += "." + part
	}
	if pico.Sign() < 0 {
		text = "-" + text
	}
	return text
}

// usdOf is usd of an amount that fits a bigint.
func usdOf(pico int64) string { return usd(big.NewInt(pico)) }

// picoOf reads a sum as the database writes it.
func picoOf(text string) *big.Int {
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return new(big.Int)
	}
	return n
}
