// `outport up` with stand-ins for its programs: `stand-in-up.ts DATA [--json]`.
import { join } from 'node:path'
import { describeFault } from '../../deploy/start-errors.ts'
import { up } from '../../deploy/up.ts'

const [data, json] = process.argv.slice(2)
try {
  process.exitCode = await up({
    data,
    primaryPort: 0,
    edgePort: 0,
    mirrorPort: 0,
    json: json === '--json',
    restartPauseMs: 10,
    command: (name) => [process.execPath, join(import.meta.dirname, 'stand-in.ts'), name],
  })
} catch (error) {
  process.stderr.write(`outport: ${describeFault(error)}\n`)
  process.exitCode = 1
}
process.exit()
