// Preloaded where launch.mjs could not become the program and stands in front of it: when that process is
// gone, even by SIGKILL, the channel to it closes and the program is asked to stop.
// Worker threads and children inherit the preload, but not the variable: only the launcher's own child follows.
import { isMainThread } from 'node:worker_threads'

if (isMainThread && process.env.OUTPORT_LAUNCHER !== undefined) {
  delete process.env.OUTPORT_LAUNCHER
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'))
  process.channel?.unref()
}
