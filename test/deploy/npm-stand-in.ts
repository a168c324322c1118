// Starts `stand-in-up.ts` the way npm starts a script, and waits for it.
import { spawn } from 'node:child_process'
import { join } from 'node:path'

spawn(process.execPath, [join(import.meta.dirname, 'stand-in-up.ts'), ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: { ...process.env, npm_lifecycle_event: 'start' },
})
