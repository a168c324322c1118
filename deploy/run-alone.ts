import type { FileCheck } from '../shared/config/load.ts'
import { createLogger } from '../shared/observability/log.ts'
import { check } from './check.ts'
import type { ConfigFlags } from './commands/config-options.ts'
import { keepCompiledIn } from './compile-cache.ts'
import { openDataFolder } from './data-folder.ts'
import { identityFallbacks } from './edge-identity.ts'
import { withAdminPassword } from './first-secrets.ts'
import {
  loadOutportConfig,
  startProgram,
  type OutportConfig,
  type ProgramName,
} from './programs.ts'
import { runProgram } from './run-program.ts'
import { createStopRequest, stopOnSignals, stopWithNpm } from './stop-request.ts'

/** What `outport primary|edge --check` does. */
export function checkAlone(name: ProgramName, flags: ConfigFlags): Promise<number> {
  return check([name], () => load(name, flags, { sections: [name] }))
}

/** An edge that joined knows who it is and where its primary is. */
function load(name: ProgramName, { config, data }: ConfigFlags, files?: FileCheck): OutportConfig {
  const fallbacks = name === 'edge' ? identityFallbacks : undefined
  return loadOutportConfig({ config, flags: { data }, files, fallbacks })
}

/**
 * Runs one program in this process until a signal comes.
 * @returns the exit code; throws what kept it from starting
 */
export async function runAlone(name: ProgramName, flags: ConfigFlags): Promise<number> {
  const stop = createStopRequest()
  stopOnSignals(stop)
  stopWithNpm(stop, process.env)
  const written = load(name, flags)
  await openDataFolder(written.data)
  keepCompiledIn(written.data)
  const { config, passwordFile } =
    name === 'primary'
      ? await withAdminPassword(written)
      : { config: written, passwordFile: undefined }
  const log = createLogger({ level: config.log.level, bindings: { program: name } })
  return runProgram({
    name,
    start: startProgram,
    config,
    log,
    stop,
    onReady: () => {
      if (passwordFile === undefined) return
      log.info({ file: passwordFile }, 'the first password of admin is in this file')
    },
  })
}
