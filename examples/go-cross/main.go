// Hello says what it was compiled for and what it finds itself on.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	who := "world"
	if len(os.Args) > 1 {
		who = strings.Join(os.Args[1:], " ")
	}
	fmt.Printf("hello %s, from Go (%s) compiled for %s/%s\n", who, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
