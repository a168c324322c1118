import { edgeSection } from '../../edge/config.ts'
import { startEdge } from '../../edge/main.ts'
import { loadConfig } from '../../shared/config/load.ts'
import { createLogger } from '../../shared/observability/log.ts'

// Several edges in one process: `edge-host.ts FILE…`, each with its own folder.

const log = createLogger({ level: 'error' })
const running = await Promise.all(
  process.argv.slice(2).map(async (file) => {
    const config = loadConfig({ sections: [edgeSection], env: {}, file })
    return startEdge(config, { log, processMetrics: false })
  }),
)
process.once('SIGTERM', () => {
  void Promise.all(running.map((edge) => edge.stop(1000))).then(() => process.exit(0))
})
