import { describeConfig } from '../shared/config/describe.ts'
import type { ListenerOptions } from '../shared/config/server-options.ts'
import { ConfigError, type ConfigProblem } from '../shared/config/problems.ts'
import { readTlsFiles, TlsFilesError } from '../shared/http/tls-files.ts'
import { sections, type OutportConfig, type ProgramName } from './programs.ts'

/**
 * What `--check` does: prints the resolved configuration without secrets, or each problem on a line of its own. What
 * only a start would find out about the files of the programs that are to start is looked at, too.
 * @returns the exit code
 */
export async function check(
  programs: readonly ProgramName[],
  load: () => OutportConfig,
): Promise<number> {
  try {
    const config = load()
    const checked = await Promise.all(
      programs.map((name) => checkCertificates(config[name].listeners, name)),
    )
    const problems = checked.flat()
    if (problems.length > 0) throw new ConfigError(problems)
    process.stdout.write(describeConfig(config, sections))
    return 0
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${error.message}\n`)
    return 1
  }
}

async function checkCertificates(
  listeners: readonly ListenerOptions[],
  section: string,
): Promise<readonly ConfigProblem[]> {
  const problems: ConfigProblem[] = []
  for (const [index, { tls }] of listeners.entries()) {
    try {
      if (tls !== undefined) await readTlsFiles(tls)
    } catch (error) {
      if (!(error instanceof TlsFilesError)) throw error
      const { file, message } = error
      problems.push({ path: `${section}.listeners.${index}.tls.${file}`, message })
    }
  }
  return problems
}
