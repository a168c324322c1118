import { defineGroup, UsageError } from './command-line.ts'
import { certs } from './commands/certs.ts'
import { edge } from './commands/edge.ts'
import { edges } from './commands/edges.ts'
import { hosts } from './commands/hosts.ts'
import { keys } from './commands/keys.ts'
import { preheat } from './commands/preheat.ts'
import { primary } from './commands/primary.ts'
import { up } from './commands/up.ts'
import { describeFault } from './start-errors.ts'

const outport = defineGroup(
  'outport',
  'a container registry that brings its own network of edge mirrors',
  [up, primary, edge, edges, preheat, keys, certs, hosts],
)

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
