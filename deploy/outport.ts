import { UsageError } from './command-line.ts'
import { outport } from './commands.ts'
import { describeFault } from './start-errors.ts'

try {
  process.exitCode = await outport.main(process.argv.slice(2))
} catch (error) {
  if (error instanceof UsageError) {
    process.stderr.write(`outport: ${error.message}\n`)
    process.exitCode = 2
  } else {
    process.stderr.write(`outport: ${describeFault(error)}\n`)
    process.exitCode = 1
  }
}
// Neither may what a library left open keep a finished command alive, nor may it end by itself: Node then takes its
// signal handlers away first, and one Ctrl-C that arrives twice would kill what has stopped cleanly.
process.exit()
